"""The Beam job and the data set format; importing it never imports TensorFlow."""

import logging

# Importing Beam warns, through the root logger, that a BigQuery client is missing, which nothing here uses.
logging.getLogger().addFilter(lambda record: "bigquery client libraries" not in record.getMessage())
