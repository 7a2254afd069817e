"""What the commands are made of, in reading order.

Data:
  datasets         the data sets, their files and folders
  text_processing  sentence to ids; vocabulary        vocabulary  makes one
  im_processing    picture to network input and back
  refer            annotations of RefCOCO's family and of ReferIt
  own_data         annotations of other data sets
  batches          samples on disk; the builder       shapes      draws a data set
  compact          their other layout                 convert     one into the other
  record           what samples were built from       npz         their files
  data_reader      samples in order or shuffled, loaded ahead
  check            what a run needs: is it there?
  glove            initial word vectors from public ones
  convert_backbone the backbone's first weights from Keras' public ones
Graph:
  compat           the one import of TensorFlow
  layers, algebra, spatial, loss, optimizer
  picture_ops, text_ops   im_processing and text_processing as parts of a graph
Run:
  training         a run: its start; feeds, loop: what steps are fed, the steps
  inference        one picture, many sentences
  evaluation, demo, predict (with findings)
  web, page        the web page       screenshot  README's picture of it
  export           a network for programs that are not ours
  checkpoint       snapshots          report, run_log, plot_log  what a run tells
  html_report      the report of a test: breakdown (numbers by group), cases (segmented
                   again), charts, gallery and html_page (how it looks)
  towers, cluster  a batch shared by devices; processes on several machines
  feature_cache    what the frozen backbone sees in training, kept on disk
  dense_crf        refinement         eval_tools  scores         visualize  pictures
  errors, files, options   one-line errors; whole files; what options share
  benchmark        the speed of this machine, by way of measurements,
                   workload, scaling and soak
  interrupts       signals that end a long run
  processes, ahead work on several cores; work begun before it is needed
"""
