"""Where the nodes of a tree run: `here`, or elsewhere in workers that only the run folder tells what to do.

An executor elsewhere is a module with `execute(folder, left, board, ...)` and ARGUMENTS, which gives `walk` a `Fleet`.
Its library is an extra, and is imported when it is asked for.
"""
