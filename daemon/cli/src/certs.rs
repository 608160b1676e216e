//! `rudder certs`: the cluster's certificate authority and the certificates of its nodes. Owns the words of the command
//! line; the certificates are made by [`rudder_peers::authority`]. It must never print a key.

use std::path::{Path, PathBuf};

use super::{CliError, style};
use rudder_peers::authority::{self, Written};

/// Arguments of `rudder certs`.
#[derive(Debug, clap::Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes the authority of a cluster: ca.pem, which every node gets, and ca.key, which stays where it is safe
    Init(InitArgs),
    /// Issues the certificates of nodes: node-I.pem and node-I.key of each
    Issue(IssueArgs),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Folder for ca.pem and ca.key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the cluster: a-z, 0-9 and inner hyphens; nodes of differently named clusters never talk
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster: String,
    /// Days until the authority expires
    #[arg(long, default_value_t = 3650)]
    days: u32,
    /// Overwrite an existing authority, which invalidates every certificate that it issued
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// Folder with the authority's ca.pem and ca.key
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// Index of the node, as in its configuration's node.index
    #[arg(long, value_name = "I", required_unless_present = "nodes", conflicts_with = "nodes")]
    node: Option<u16>,
    /// Indices of several nodes: ranges and numbers with commas between, such as 0-63 or 0-3,7
    #[arg(long, value_name = "I-J", value_parser = indices)]
    nodes: Option<Indices>,
    /// Folder for the node's files; the authority's folder by default
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Days until the certificate expires
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// Overwrite an existing certificate
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Makes the authority or certificate and prints where it is.
///
/// # Errors
/// If files exist, are missing or cannot be written, or if arguments contradict each other.
pub fn run(args: &CertsArgs) -> Result<(), CliError> {
    match &args.command {
        Command::Init(args) => {
            let written = authority::init(&args.out, &args.cluster, args.days, args.force)?;
            report(&written, None, args.json)?;
            if !args.json {
                let dir = args.out.display();
                style::print(&format!(
                    "next: rudder certs issue --authority {dir} --node I, or --nodes 0-N for all at once\n"
                ))?;
            }
        }
        Command::Issue(args) => {
            let out = args.out.as_ref().unwrap_or(&args.authority);
            let nodes = args.nodes.clone().map_or_else(|| args.node.into_iter().collect(), |Indices(nodes)| nodes);
            // All or none: what exists is found before the first is written.
            if !args.force
                && let Some(path) = nodes.iter().flat_map(|&node| files_of(out, node)).find(|path| path.exists())
            {
                return Err(authority::AuthorityError::Exists(path).into());
            }
            for node in nodes {
                let written = authority::issue(&args.authority, node, out, args.days, args.force)?;
                report(&written, Some(node), args.json)?;
            }
        }
    }
    Ok(())
}

/// Indices of nodes, each once, in the order they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Indices(Vec<u16>);

fn indices(text: &str) -> Result<Indices, String> {
    let mut nodes = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.trim().parse::<u16>().ok().zip(last.trim().parse::<u16>().ok());
        let (first, last) = range
            .filter(|(first, last)| first <= last)
            .ok_or_else(|| format!("`{part}` is no index and no range of indices such as 0-63"))?;
        nodes.extend((first..=last).filter(|node| !nodes.contains(node)).collect::<Vec<_>>());
    }
    Ok(Indices(nodes))
}

fn files_of(folder: &Path, node: u16) -> [PathBuf; 2] {
    ["pem", "key"].map(|kind| folder.join(format!("node-{node}.{kind}")))
}

fn report(written: &Written, node: Option<u16>, json: bool) -> Result<(), CliError> {
    let Written { certificate, key, cluster, not_after_unix_s } = written;
    if json {
        let mut value = serde_json::json!({
            "certificate": certificate, "key": key, "cluster": cluster, "not_after_unix_s": not_after_unix_s,
        });
        if let Some(node) = node {
            value["node"] = node.into();
        }
        style::print_json_line(&value)
    } else {
        let what = node.map_or_else(|| "authority".to_owned(), |node| format!("node {node}"));
        style::print(&format!("{what} of cluster {cluster}: {} and {}\n", certificate.display(), key.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_numbers_and_ranges() {
        assert_eq!(indices("0-3,7,2").unwrap(), Indices(vec![0, 1, 2, 3, 7]));
        assert_eq!(indices("5").unwrap(), Indices(vec![5]));
        for wrong in ["", "3-1", "a", "0-", "0-65536", "1,,2"] {
            assert!(indices(wrong).unwrap_err().contains("is no index and no range"), "{wrong}");
        }
    }

    #[test]
    fn all_nodes_get_certificates_or_none() {
        let folder = tempfile::tempdir().unwrap();
        authority::init(folder.path(), "blue", 1, false).unwrap();
        let args = |nodes: &str, force| CertsArgs {
            command: Command::Issue(IssueArgs {
                authority: folder.path().to_owned(),
                node: None,
                nodes: Some(indices(nodes).unwrap()),
                out: None,
                days: 1,
                force,
                json: true,
            }),
        };
        run(&args("2", false)).unwrap();
        let error = run(&args("0-3", false)).unwrap_err().to_string();
        assert!(error.contains("node-2.pem exists"), "{error}");
        assert!(!folder.path().join("node-0.pem").exists(), "none before the one that exists");
        run(&args("0-3", true)).unwrap();
        (0..4).flat_map(|node| files_of(folder.path(), node)).for_each(|path| assert!(path.is_file()));
    }
}
