"""The same run in several processes: launched by torchrun or accelerate, or sent to a Ray cluster.

| file | what it does |
|---|---|
| `steps` | the dataflow in two halves, before and after training, each run once |
| `launched` | the halves in the first of several launched processes, training in all of them |
| `on_ray` | the halves here, training in the workers of a Ray cluster |
| `ray_driver`, `ray_worker` | the process that talks to Ray, and what Ray's workers do |

The distributing is done by torch.distributed and Ray; what is sent is `seqtune.engine.job`. Hamilton's own Ray adapter
is not used: it makes each *node* a remote task and pickles models and data sets over every edge, while here one step
of forty is worth distributing, and it must run in several processes at once (docs/scale.md).
"""
