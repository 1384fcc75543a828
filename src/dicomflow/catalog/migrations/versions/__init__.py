"""One module a revision, named r<revision>_<pre or post>_<what>."""
