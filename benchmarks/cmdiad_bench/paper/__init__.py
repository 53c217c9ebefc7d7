"""The paper's tables: train every row on a data set, and show the published figures next to the measured ones."""
