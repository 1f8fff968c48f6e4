"""speechcl: a speech toolkit that keeps learning without forgetting."""
