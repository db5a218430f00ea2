//! The publication is altered by hand, and tables come to break their own writes by being in it.
