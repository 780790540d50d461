"""The report: one page that shows whether tuning helped, where, and how far that can be trusted.

    page.py        the page: facts and rows into the template, style and scripts into the page
    safety.py      what keeps text text: the Content-Security-Policy, JSON inside HTML
    reading.py     taking what is there out of a manifest that may lack it
    scores.py      base against tuned: the table with its intervals, guard rails, seeds
    origins.py     where it came from: data, checks, lengths, settings, versions, how to make it again
    answers.py     the rows: scores always, text only where it was asked for and has room
    groups.py      scores by the values of the rows' other fields
    sections.py    which section of the page shows the result of a node
    facts.py       what is known of a run at work: kept when training begins
    unfinished.py  what is known of a run that is not finished
    templates/     the page's HTML, a file a section
    static/        its style and scripts; plotly.js

Everything but the curves and the table of answers is in the HTML itself, and can be read without scripts.
"""
