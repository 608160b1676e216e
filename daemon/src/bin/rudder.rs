//! `rudder`, the operator's program. Everything it does is in `rudder_daemon::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    rudder_daemon::cli::main()
}
