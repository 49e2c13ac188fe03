"""A program: `compile` lowers a graph for given shapes, `placement` places all its tensors in one `arena`.

`division` finds the nodes that run a band of rows at a time: `sections`. `bands` says which rows are computed when, and
`lines` where they lie. `again` says which nodes run in later sections, too. `strips` says which columns are computed
when, and `forms` lowers nodes for them.
"""
