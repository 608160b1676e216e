//! The environment that systemd gives the daemon: what an `EnvironmentFile=` says, read as systemd.exec(5) has it. Owns
//! that syntax; other modules know which file it is and what its variables mean. It must never touch the environment
//! of this process.

/// Where the reader is in the text.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Before a name.
    Start,
    Comment,
    Name,
    /// Behind `=`, or behind a quote that closed: white space does not count here.
    Gap,
    Plain,
    /// Behind a backslash within plain text.
    PlainEscape,
    Single,
    Double,
    /// Behind a backslash within double quotes.
    DoubleEscape,
}

/// What has been read of one assignment.
#[derive(Default)]
struct Assignment {
    name: String,
    value: String,
    /// Length of the value up to its last character that is not white space without quotes.
    kept: usize,
}

impl Assignment {
    fn push(&mut self, c: char) {
        self.value.push(c);
        self.kept = self.value.len();
    }

    fn push_plain(&mut self, c: char) {
        self.value.push(c);
        if !c.is_whitespace() {
            self.kept = self.value.len();
        }
    }

    fn finish(mut self) -> (String, String) {
        self.value.truncate(self.kept);
        (self.name.trim_end().to_owned(), self.value)
    }
}

/// The variables of a file, in its order. Lines without `=` say nothing, nor do those that begin with `#` or `;`.
pub(super) fn variables(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut at = At::Start;
    let mut one = Assignment::default();
    for c in text.chars() {
        if at == At::Start && !c.is_whitespace() {
            one = Assignment::default();
        }
        let ends = c == '\n' && matches!(at, At::Gap | At::Plain);
        at = step(at, c, &mut one);
        if ends {
            found.push(std::mem::take(&mut one).finish());
        }
    }
    // A last value without its end counts as well.
    if !matches!(at, At::Start | At::Comment | At::Name) {
        found.push(one.finish());
    }
    found
}

/// Takes the next character in, and says where the reader is then.
fn step(at: At, c: char, one: &mut Assignment) -> At {
    match (at, c) {
        (At::Name | At::Comment | At::Gap | At::Plain, '\n') => At::Start,
        (At::Start, '#' | ';') => At::Comment,
        (At::Start, c) if c.is_whitespace() => At::Start,
        (At::Comment, _) => At::Comment,
        (At::Name, '=') => At::Gap,
        (At::Start | At::Name, c) => {
            one.name.push(c);
            At::Name
        }
        (At::Gap, '\'') => At::Single,
        (At::Gap, '"') => At::Double,
        (At::Gap, c) if c.is_whitespace() => At::Gap,
        (At::Gap | At::Plain, '\\') => At::PlainEscape,
        (At::Gap | At::Plain, c) => {
            one.push_plain(c);
            At::Plain
        }
        // A backslash at the end of a line joins it with the next.
        (At::PlainEscape, '\n') => At::Plain,
        (At::PlainEscape, c) => {
            one.push(c);
            At::Plain
        }
        (At::Single, '\'') | (At::Double, '"') => At::Gap,
        (At::Double, '\\') => At::DoubleEscape,
        (At::Single | At::Double, c) => {
            one.push(c);
            at
        }
        (At::DoubleEscape, c) => {
            match c {
                '"' | '\\' | '`' | '$' => one.push(c),
                '\n' => {}
                other => ['\\', other].into_iter().for_each(|c| one.push(c)),
            }
            At::Double
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_systemd_reads_it() {
        let text = "# RUDDER_NODE__INDEX=0\n; X=1\n\nRUDDER_NODE__INDEX=2  \n  SPACED = a b \t\nEMPTY=\nno assignment\n\
                    DOUBLE=\"a \\\"b\\\" \\$x \\n \"\nSINGLE='it \\is' # kept\nJOINED=one \\\n  two\nESCAPED=a\\ \\\nTWICE=1\nTWICE=2=3\n\
                    LINES=\"first\nsecond\"\nLAST='open";
        let found = variables(text);
        let expected = [
            ("RUDDER_NODE__INDEX", "2"),
            ("SPACED", "a b"),
            ("EMPTY", ""),
            ("DOUBLE", "a \"b\" $x \\n "),
            ("SINGLE", "it \\is# kept"),
            ("JOINED", "one   two"),
            ("ESCAPED", "a TWICE=1"),
            ("TWICE", "2=3"),
            ("LINES", "first\nsecond"),
            ("LAST", "open"),
        ];
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
        assert!(variables("").is_empty() && variables("\n\n#").is_empty());
    }
}
