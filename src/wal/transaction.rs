//! Logical messages in stream order → changes tagged with their commit, relations kept as of each change.
