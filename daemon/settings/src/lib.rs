//! What the settings of all crates share. It owns the values that can be written in more than one way ([`Capacity`],
//! sizes, permission bits) and the form of an error about a value ([`Invalid`]).
//!
//! Each crate declares its own settings, decodes them and checks them; the daemon's configuration composes them. **This
//! crate must never** know a setting of another crate, and it never repairs a value.

mod check;
mod values;

pub use check::{Invalid, Verdict, WAIT_MS, check_plain_http, quoted, within, wrong};
pub use values::{Capacity, byte_size, octal_mode};
