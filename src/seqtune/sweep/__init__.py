"""Many runs with different settings, the best of them chosen by the validation loss alone.

| file | what it does |
|---|---|
| `space` | what is tried: ``learning_rate=1e-4..3e-3:log``, ``lora_r=8,16,32`` |
| `study` | Optuna's search and pruning, kept in a file that outlives a kill |
| `on_cluster`, `ray_trials` | the trials side by side on a Ray cluster, stopped by Ray Tune's ASHA |
| `trial` | one run up to the end of its training |
| `page` | the sweep's report |
"""
