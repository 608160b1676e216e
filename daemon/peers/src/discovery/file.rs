//! The file of `peers.discovery = "file:PATH"`: its form, its limits, and how it is followed while the daemon runs. It
//! must never replace addresses that are known by those of a file that cannot be read.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Longest address: a name of 253 bytes, a colon and a port.
const ADDRESS_BYTES_MAX: usize = 253 + 6;

/// Whether an address is `host:port`, with a port that is not 0 (0 lets the kernel choose).
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_BYTES_MAX
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            let plain = !host.is_empty() && !host.contains(char::is_whitespace);
            plain && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

/// Reads lines of `index host:port`, also written `index = "host:port"` as in `[peers.addresses]`. Empty lines and
/// those that begin with `#` or `[` say nothing.
///
/// # Errors
/// The number of the first line that cannot be read, from 1, and what is wrong with it.
pub fn parse_addresses(text: &str) -> Result<BTreeMap<u16, String>, (usize, String)> {
    let mut addresses = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let (index, rest) = line.split_once(|c: char| c == '=' || c.is_whitespace()).unwrap_or((line, ""));
        let index = index.trim_matches('"');
        let address = rest.trim().trim_start_matches('=').trim().trim_matches('"');
        let node = index.parse::<u16>().map_err(|_| (number, format!("`{index}` is no index of a node")))?;
        if !is_address(address) {
            return Err((number, format!("`{address}` is not host:port")));
        }
        if addresses.insert(node, address.to_owned()).is_some() {
            return Err((number, format!("node {node} has a line already")));
        }
    }
    Ok(addresses)
}

/// The addresses that the file holds.
pub(super) fn read(path: &Path) -> Result<BTreeMap<u16, String>, String> {
    let at = path.display();
    let file = std::fs::File::open(path).map_err(|error| format!("{at}: {error}"))?;
    let mut text = String::new();
    let length = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| format!("{at}: {error}"))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(format!("{at}: longer than {FILE_BYTES_MAX} bytes"));
    }
    parse_addresses(&text).map_err(|(line, problem)| format!("{at}:{line}: {problem}"))
}

/// What tells one content of a file from another without reading it.
type Version = (SystemTime, u64);

/// A file of addresses that is read again when it has changed.
#[derive(Debug)]
pub(crate) struct AddressFile {
    path: PathBuf,
    last: Mutex<(Option<Version>, BTreeMap<u16, String>)>,
}

impl AddressFile {
    /// The file at `path`, which held `addresses` when it was read.
    pub(crate) fn new(path: PathBuf, addresses: BTreeMap<u16, String>) -> Self {
        Self { path, last: Mutex::new((None, addresses)) }
    }

    /// The address of a node, by the file as it is now; as it was, where it cannot be read now. `again` reads it even
    /// if it seems the same: clocks of file systems are coarse. May block.
    pub(crate) fn address(&self, node: u16, again: bool) -> Option<String> {
        let version = || {
            let found = std::fs::metadata(&self.path).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        let mut last = self.last.lock();
        let now = version();
        if again || last.0.is_none() || now != last.0 {
            match read(&self.path) {
                Ok(addresses) => *last = (now, addresses),
                Err(problem) => tracing::warn!(problem, "peers.discovery: the addresses that are known stay"),
            }
        }
        last.1.get(&node).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_both_forms_are_read_and_wrong_ones_named() {
        let text = "# nodes\n[peers.addresses]\n0 a:7400\n\n 2\t[::1]:7401 \n1 = \"b.c:7400\"\n\"3\"=\"d:1\"\n";
        let found = parse_addresses(text).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [(0, "a:7400".to_owned()), (1, "b.c:7400".to_owned()), (2, "[::1]:7401".to_owned()), (3, "d:1".to_owned()),]
        );
        for (text, line, words) in [
            ("0 a:1\nx b:1", 2, "`x` is no index"),
            ("0", 1, "`` is not host:port"),
            ("0 a", 1, "`a` is not host:port"),
            ("0 a:0", 1, "`a:0` is not"),
            ("0 a b:1", 1, "`a b:1` is not"),
            ("0 a:1\n0 b:1", 2, "node 0 has a line already"),
            ("65536 a:1", 1, "`65536` is no index"),
        ] {
            let (number, problem) = parse_addresses(text).unwrap_err();
            assert!(number == line && problem.contains(words), "{text}: {number}: {problem}");
        }
    }

    #[test]
    fn a_file_that_changes_is_followed_and_one_that_breaks_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes");
        std::fs::write(&path, "1 a:7400\n").unwrap();
        let file = AddressFile::new(path.clone(), read(&path).unwrap());
        assert_eq!(file.address(1, false).as_deref(), Some("a:7400"));
        assert_eq!(file.address(2, false), None);
        std::fs::write(&path, "1 elsewhere:7400\n").unwrap();
        assert_eq!(file.address(1, false).as_deref(), Some("elsewhere:7400"));
        // As long, and perhaps within one tick of the file system's clock.
        std::fs::write(&path, "1 elsewhere:7401\n").unwrap();
        assert_eq!(file.address(1, true).as_deref(), Some("elsewhere:7401"));
        std::fs::write(&path, "torn").unwrap();
        assert_eq!(file.address(1, true).as_deref(), Some("elsewhere:7401"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.address(1, false).as_deref(), Some("elsewhere:7401"));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            nodes in prop::collection::btree_map(any::<u16>(), ("[a-z0-9.-]{1,20}", 1u16..), 0..40),
            toml in any::<bool>(),
        ) {
            let line = |(node, (host, port)): (&u16, &(String, u16))| match toml {
                true => format!("{node} = \"{host}:{port}\"\n"),
                false => format!("{node} {host}:{port}\n"),
            };
            let found = parse_addresses(&nodes.iter().map(line).collect::<String>()).unwrap();
            let expected: BTreeMap<u16, String> =
                nodes.iter().map(|(node, (host, port))| (*node, format!("{host}:{port}"))).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_text_is_addresses_or_an_error(text in "[0-9a:= \"#\\[\n.]{0,60}") {
            if let Ok(addresses) = parse_addresses(&text) {
                prop_assert!(addresses.values().all(|address| is_address(address)));
            }
        }
    }
}
