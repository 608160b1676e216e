//! `rudder certs`: the cluster's certificate authority and the certificates of its nodes. Owns the words of the command
//! line; the certificates are made by [`rudder_peers::authority`]. It must never print a key.

use std::path::PathBuf;

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
    /// Issues the certificate of one node: node-I.pem and node-I.key
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
    #[arg(long, value_name = "I")]
    node: u16,
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
                style::print(&format!("next: rudder certs issue --authority {dir} --node I, once for each node\n"))?;
            }
        }
        Command::Issue(args) => {
            let out = args.out.as_ref().unwrap_or(&args.authority);
            let written = authority::issue(&args.authority, args.node, out, args.days, args.force)?;
            report(&written, Some(args.node), args.json)?;
        }
    }
    Ok(())
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
