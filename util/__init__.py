"""The commands (`python -m util.X`) and the rooms that they and the models are made of.

A file here is a command. Everything else is in a room, and imports run down this list:

  bench        what util.benchmark measures
  deploy       -m serve and -m export
  training     -m train and -m demo
  evaluation   -m test and -m report
  inference    -m predict, and Predictor
  models       the registry, and what all models share (CMPC_model.py: the paper)
  graph, data  TensorFlow without data; data without TensorFlow
  core         errors, files, command lines, processes
"""
