//! Lists of hosts as Slurm writes them: `node[01-04,07],login1`. Owns the syntax and its limits. It must never make
//! more hosts than a cluster can have, whatever a list says.

/// Most hosts of one list: node indices are 16 bits.
const HOSTS_MAX: usize = 65_535;

/// Whether a character may stand in the name of a host.
pub(super) fn in_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The hosts of a list, in its order: names with commas between them, and in a name any number of brackets that hold
/// numbers and ranges of numbers. The last bracket counts fastest; a number keeps its leading zeros.
///
/// # Errors
/// Names the part of the list that cannot be read.
pub fn expand_hosts(list: &str) -> Result<Vec<String>, String> {
    let mut hosts = Vec::new();
    for name in split_outside_brackets(list.trim())? {
        expand(name, &mut hosts)?;
    }
    Ok(hosts)
}

/// The names of a list; commas within brackets belong to a name.
fn split_outside_brackets(list: &str) -> Result<Vec<&str>, String> {
    let (mut names, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return Err(format!("`{}` has a bracket within a bracket", &list[start..])),
            '[' => inside = true,
            ']' if !inside => return Err(format!("`{}` closes a bracket that is not open", &list[start..=at])),
            ']' => inside = false,
            ',' if !inside => {
                names.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(format!("`{}` lacks a closing bracket", &list[start..]));
    }
    names.push(&list[start..]);
    Ok(names)
}

/// Appends the hosts that `name` stands for.
fn expand(name: &str, hosts: &mut Vec<String>) -> Result<(), String> {
    let mut made = vec![String::new()];
    let mut rest = name;
    while !rest.is_empty() {
        let (plain, bracket) = match rest.split_once('[') {
            None => (std::mem::take(&mut rest), None),
            Some((plain, after)) => {
                let (inside, behind) = after.split_once(']').unwrap_or((after, ""));
                rest = behind;
                (plain, Some(inside))
            }
        };
        made.iter_mut().for_each(|host| host.push_str(plain));
        let Some(bracket) = bracket else { continue };
        let numbers = numbers(bracket, HOSTS_MAX.saturating_sub(hosts.len()) / made.len())?;
        made = made.iter().flat_map(|host| numbers.iter().map(move |number| format!("{host}{number}"))).collect();
    }
    if let Some(wrong) = made.iter().find(|host| host.is_empty() || !host.chars().all(in_a_name)) {
        return Err(format!("`{}` is no name of a host", if wrong.is_empty() { name } else { wrong }));
    }
    if hosts.len() + made.len() > HOSTS_MAX {
        return Err(too_many());
    }
    hosts.append(&mut made);
    Ok(())
}

/// The numbers of a bracket as text, at most `most`.
fn numbers(bracket: &str, most: usize) -> Result<Vec<String>, String> {
    let mut numbers = Vec::new();
    for part in bracket.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
        let (from, to) = range.ok_or_else(|| format!("`{part}` in `[{bracket}]` is no number and no range"))?;
        if to - from >= (most.saturating_sub(numbers.len())) as u64 {
            return Err(too_many());
        }
        numbers.extend((from..=to).map(|number| format!("{number:0width$}", width = first.len())));
    }
    Ok(numbers)
}

fn too_many() -> String {
    format!("the list has more than {HOSTS_MAX} hosts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_expanded_as_scontrol_does() {
        for (list, hosts) in [
            ("n1", &["n1"][..]),
            ("node[01-04,07]", &["node01", "node02", "node03", "node04", "node07"]),
            ("n[9-11],login,m[2]", &["n9", "n10", "n11", "login", "m2"]),
            ("rack[0-1]n[08-09]-ib", &["rack0n08-ib", "rack0n09-ib", "rack1n08-ib", "rack1n09-ib"]),
            ("[1-2].cluster", &["1.cluster", "2.cluster"]),
        ] {
            assert_eq!(expand_hosts(list).unwrap(), hosts, "{list}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (list, words) in [
            ("", "`` is no name"),
            ("a,,b", "is no name"),
            ("n[1-", "lacks a closing bracket"),
            ("n1]", "not open"),
            ("n[[1]]", "bracket within a bracket"),
            ("n[4-1]", "`4-1` in `[4-1]`"),
            ("n[]", "`` in `[]`"),
            ("n[x]", "`x` in `[x]`"),
            ("n o", "`n o` is no name of a host"),
            ("n[0-99999999999]", "more than 65535 hosts"),
            ("n[0-999][0-999]", "more than 65535 hosts"),
            ("n[0-65535]", "more than 65535 hosts"),
        ] {
            let error = expand_hosts(list).unwrap_err();
            assert!(error.contains(words), "{list}: {error}");
        }
        assert_eq!(expand_hosts("n[0-65534]").unwrap().len(), HOSTS_MAX);
    }

    proptest! {
        /// A list that was made of ranges expands to the names that it was made of.
        #[test]
        fn ranges_give_their_names(
            parts in prop::collection::vec(("[a-z][a-z0-9-]{0,6}", 0u64..2000, 0u64..20, 1usize..6), 1..6),
        ) {
            let (mut list, mut names) = (Vec::new(), Vec::new());
            for (prefix, first, more, width) in parts {
                list.push(format!("{prefix}[{first:0width$}-{:0width$}]", first + more));
                let width = format!("{first:0width$}").len();
                names.extend((first..=first + more).map(|number| format!("{prefix}{number:0width$}")));
            }
            prop_assert_eq!(expand_hosts(&list.join(",")).unwrap(), names);
        }

        /// Whatever a list says, it ends, and what it gives are names of hosts.
        #[test]
        fn any_text_is_hosts_or_an_error(list in "[a-c0-9\\[\\],. -]{0,40}") {
            if let Ok(hosts) = expand_hosts(&list) {
                prop_assert!(!hosts.is_empty() && hosts.len() <= HOSTS_MAX);
                prop_assert!(hosts.iter().all(|host| !host.is_empty() && host.chars().all(in_a_name)));
            }
        }
    }
}
