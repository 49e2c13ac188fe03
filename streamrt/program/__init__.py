"""A program: `compile` lowers a graph for given shapes, `placement` places all its tensors in one `arena`.

`division` finds the nodes that run a band of rows at a time: `sections`. `bands` says which rows are computed when, and
`lines` where they lie. `runs` finds the nodes of each section, and `held` the whole tensors that are in memory beside
it. `again` says which nodes run in later sections, too. `strips` says which columns are computed when, and `forms`
lowers nodes for them. `current` is the strip that bound nodes compute. `casts` finds nodes that a pass does
without.
"""
