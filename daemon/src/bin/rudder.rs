//! rudder
fn main() {}
