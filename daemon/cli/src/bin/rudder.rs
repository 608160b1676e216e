//! `rudder`, the operator's program. Everything it does is in `rudder_cli`.

use std::process::ExitCode;

/// Rows come and go in buffers of hundreds of kilobytes; the system's allocator would hand each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rudder_cli::main()
}
