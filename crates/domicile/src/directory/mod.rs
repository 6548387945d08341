//! Where the owners of all partitions are agreed on: the embedded directory and its client.
