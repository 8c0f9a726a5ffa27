"""Where the nodes of a tree run. Each executor is one module with `execute(bench, left, board)`."""
