"""Views of samples: policies, plans, operations, view sets, and the kernels that apply a plan to pixels."""
