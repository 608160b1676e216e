//! What the help of each subcommand teaches beyond its options: examples, and what the exit status says. Owns the
//! examples; a test reads each as the command line would, so that none can be wrong.

/// Subcommands, as they are called, with their examples: a line of what it does, and the line to type.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "up",
        &[
            ("all parts of a dataset on this machine; Ctrl-C ends them", "rudder up data"),
            ("in the background, and the socket for the trainers that follow", "eval \"$(rudder up data --detach)\""),
            ("one of two hosts, by hand", "rudder up data --node 0 --nodes host-a,host-b --certs certs"),
            ("on each node of a Slurm job", "srun --ntasks-per-node=1 rudder up data --certs certs"),
        ],
    ),
    (
        "down",
        &[
            ("what `rudder up data` started", "rudder down data"),
            ("everything that this user started", "rudder down --all"),
        ],
    ),
    (
        "get",
        &[
            ("two rows, by the ids of your own files", "rudder get feat 17 42"),
            ("the row of a vertex by its name, in a graph that has names", "rudder get feat libc6"),
            ("the first values of a row by its number in the dataset", "rudder get feat 17 --ids dataset --limit 4"),
        ],
    ),
    (
        "init",
        &[
            ("a file to fill in", "rudder init --out rudderd.toml"),
            ("ready to check", "rudder init --dataset /data/graph"),
        ],
    ),
    (
        "import npy",
        &[
            (
                "a table of NumPy rows over 4 nodes, ids as they are",
                "rudder import npy --out data --parts 4 --table feat=feat.npy",
            ),
            ("a table for each .npy file of a folder", "rudder import npy arrays --out data --parts 4"),
        ],
    ),
    (
        "import safetensors",
        &[("a table for each tensor", "rudder import safetensors model.safetensors --out data --parts 4")],
    ),
    (
        "import edges",
        &[
            (
                "a graph, partitioned for 4 nodes, with features in half precision",
                "rudder import edges edges.txt.gz --out data --parts 4 --table feat=feat.npy:f16",
            ),
            (
                "vertices with names, whose rows are in the order of a list",
                "rudder import edges links.csv --out data --parts 4 --vertices names.txt --table feat=feat.npy",
            ),
        ],
    ),
    (
        "import ogb",
        &[
            ("as it was downloaded, partitioned", "rudder import ogb dataset/ogbn_arxiv --out data --parts 4"),
            (
                "too large for METIS: even ranges of ids",
                "rudder import ogb dataset/mag240m_kddcup2021 --out data --parts 4 --book ranges",
            ),
        ],
    ),
    (
        "import distdgl",
        &[("a partition that DistDGL made; its files stay in use", "rudder import distdgl products.json --out data")],
    ),
    (
        "show",
        &[
            ("tables, types and who owns which ids", "rudder show data"),
            ("the same of a DistDGL partition, for a program", "rudder show distdgl:products.json --json"),
        ],
    ),
    (
        "bench fetch",
        &[("batches of 10,000 rows by 1, 2 and 4 trainers at once", "rudder bench fetch --rows 10000 --clients 1,2,4")],
    ),
    ("bench peer", &[("with jumbo frames", "rudder bench peer --mtu 6500")]),
    (
        "certs init",
        &[("once for a cluster; keep ca.key where it is safe", "rudder certs init --out authority --cluster blue")],
    ),
    (
        "certs issue",
        &[
            ("for 64 nodes at once", "rudder certs issue --authority authority --nodes 0-63"),
            (
                "for one node; give it node-3.pem, node-3.key and ca.pem",
                "rudder certs issue --authority authority --node 3 --out node3",
            ),
        ],
    ),
    (
        "demo",
        &[
            ("the comparison, in half a minute", "rudder demo"),
            (
                "an agent steers the cache, and its journals are kept",
                "rudder demo --policy epoch --capacity 0.05 --controller rules --journal journals",
            ),
        ],
    ),
    (
        "replay",
        &[
            ("all policies, with and without lookahead", "rudder replay trace --capacity 0.15 --lookahead 0,8"),
            ("compare controllers", "rudder replay trace --controller off,rules --capacity 0.05 --ceiling 0.25"),
        ],
    ),
    (
        "train",
        &[
            ("on a trace, tested on another", "rudder train node0 --test node1 --model rf --out model.json"),
            ("on what agents did that explored", "rudder train journals/*.jsonl --model lr --out model.json"),
        ],
    ),
    (
        "trace record",
        &[(
            "two thousand fetches, whole epochs only",
            "rudder trace record --out trace --minibatches 2000 --whole-epochs",
        )],
    ),
    (
        "status",
        &[
            ("this node's daemon", "rudder status"),
            (
                "another node's, with its token",
                "rudder status --admin http://node7:7401 --token-file /etc/rudder/token",
            ),
            ("over the socket, where HTTP is closed", "rudder status --socket /run/rudder/rudder.sock"),
        ],
    ),
    (
        "decisions",
        &[
            ("what the agent did, without the quiet windows", "rudder decisions --actions"),
            ("a run of the past, from its journals", "rudder decisions --limit 1000 journal.jsonl.1 journal.jsonl"),
        ],
    ),
    (
        "log",
        &[
            ("what is logged now", "rudder log"),
            ("look closely at the peers, until the next start", "rudder log info,rudder_peers=debug"),
        ],
    ),
    (
        "top",
        &[
            ("this node's daemon; q quits", "rudder top"),
            ("several nodes, a line each", "rudder top --url node0:7401 --url node1:7401 --interval 2"),
            ("one frame into a log", "rudder top --once"),
        ],
    ),
    (
        "doctor",
        &[
            ("before the first start, as the daemon's user", "rudder doctor --config /etc/rudder/rudderd.toml"),
            ("without asking the other nodes", "rudder doctor --offline --json"),
            (
                "a second daemon of this node, with what its unit gives it",
                "rudder doctor --config /etc/rudder/b.toml --environment-file /etc/default/rudder-b",
            ),
        ],
    ),
    (
        "report",
        &[
            ("from the journals of all nodes", "rudder report --journal node0.jsonl node1.jsonl --out run.html"),
            (
                "plots of the last two hours from Prometheus, decisions from a journal",
                "rudder report --prometheus http://prometheus:9090 --start 2h --selector job=\"gnn\" --journal node0.jsonl",
            ),
        ],
    ),
    ("tool grow", &[("twice the rows, up to the ceiling", "rudder tool grow --factor 2")]),
    (
        "tool evict",
        &[("turn a quarter over, after the accesses changed", "rudder tool evict --fraction 0.25 --forget")],
    ),
    ("tool refresh", &[("only what was not looked at for a minute", "rudder tool refresh --max-age-s 60")]),
    ("tool warm", &[("bring two rows in", "rudder tool warm --table feat 17 42")]),
    ("tool hold", &[("keep the residents until the next decision", "rudder tool hold")]),
    (
        "completions",
        &[
            ("of this program", "rudder completions bash"),
            ("of the daemon", "rudder completions bash --program rudderd"),
        ],
    ),
    ("man", &[("then: man -l man/rudder-top.1", "rudder man man")]),
];

const STATUS: &str = "Exit status: 0 done; 1 it failed, and standard error says why; 2 wrong usage.";

/// Subcommands whose exit status says something else.
const STATUSES: &[(&str, &str)] =
    &[("doctor", "Exit status: 0 nothing is wrong, or there are warnings only; 1 there are problems; 2 wrong usage.")];

/// The command line with examples and exit status after the help of each subcommand.
pub(super) fn taught(command: clap::Command) -> clap::Command {
    let colours = "Colours: none where NO_COLOR is set or the output is not a terminal; CLICOLOR_FORCE=1 keeps them.";
    let command = command.after_help(format!("{STATUS}\n{colours}\n`rudder help SUBCOMMAND` has examples."));
    teach_below(command, "")
}

fn teach_below(command: clap::Command, path: &str) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command.mut_subcommand(name, |below| {
            let below = teach_below(below, &path);
            if below.get_subcommands().next().is_some() { below } else { below.after_help(lesson(&path)) }
        })
    })
}

fn lesson(path: &str) -> String {
    let mut text = String::new();
    for (what, line) in examples(path) {
        text.push_str(&format!("{}  # {what}\n  {line}\n", if text.is_empty() { "Examples:\n" } else { "" }));
    }
    let status = STATUSES.iter().find(|(name, _)| *name == path).map_or(STATUS, |(_, text)| text);
    if text.is_empty() { status.to_owned() } else { format!("{text}\n{status}") }
}

fn examples(path: &str) -> &'static [(&'static str, &'static str)] {
    EXAMPLES.iter().find(|(name, _)| *name == path).map_or(&[], |(_, examples)| examples)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line as a shell would split them; no example needs more than quotes within a word.
    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(|word| word.replace('"', "")).collect()
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for (path, examples) in EXAMPLES {
            for (what, line) in *examples {
                let line = &line[line.find("rudder").unwrap_or_default()..].trim_end_matches(")\"");
                assert!(line.starts_with(&format!("rudder {path}")), "{path}: {line}");
                let parsed = super::super::command().try_get_matches_from(words(line));
                assert!(parsed.is_ok(), "{what}: {line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn every_subcommand_says_its_exit_status_and_most_have_an_example() {
        fn check(command: &clap::Command, path: &str, without: &mut Vec<String>) {
            for below in command.get_subcommands() {
                let path = format!("{path} {}", below.get_name());
                if below.get_subcommands().next().is_some() {
                    check(below, &path, without);
                    continue;
                }
                let help = below.clone().render_long_help().to_string();
                assert!(help.contains("Exit status: 0 "), "{path}: {help}");
                if !help.contains("Examples:\n  # ") {
                    without.push(path.trim().to_owned());
                }
            }
        }
        let mut without = Vec::new();
        check(&super::super::command(), "", &mut without);
        assert!(without.is_empty(), "no example: {without:?}");
    }
}
