//! The rektor command: arguments, signals, exit code. The only place that prints or exits.

fn main() {}
