from speechbrain.utils.importutils import LazyModule

# Hypothesis asks every loaded module for its file; SpeechBrain's lazy ones would import packages
# that are not installed in order to answer.
LazyModule.__file__ = None
