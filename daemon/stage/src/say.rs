//! How this crate speaks to the person at the terminal: through a function that the caller gives. It must never print
//! by itself.

/// How urgent a sentence to the person at the terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// Good to know.
    Note,
    /// Something was left undone.
    Warning,
    /// The run is over.
    Error,
}

/// Says a sentence to the person at the terminal: the stage itself never prints.
pub type Say = fn(Saying, &str);
