//! `portolan content` in words.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// A tenant's content, as its own token sees it.
#[derive(Debug, Args)]
pub(crate) struct Content {
    /// A public listener of any gateway, such as https://gateway.example.com.
    #[arg(long, env = "PORTOLAN_URL", global = true, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// A token of the tenant, with the role `tenant-app`.
    #[arg(long, env = "PORTOLAN_TOKEN", global = true, hide_env_values = true)]
    pub(crate) token: Option<String>,
    #[command(subcommand)]
    pub(crate) what: What,
}

/// What can be asked of content. Items are named SITE/NAME.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Write a file as a new version of an item. What broke off goes on where it was.
    Put {
        /// SITE/NAME
        item: String,
        /// The file.
        file: PathBuf,
        /// Its media type.
        #[arg(long, default_value = "application/octet-stream")]
        media: String,
        /// The version that the file was made of; what came since is kept beside it, or merged.
        #[arg(long)]
        base: Option<String>,
    },
    /// Read an item into a file, or to the standard output.
    Get {
        /// SITE/NAME
        item: String,
        /// The file; the standard output when absent.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// This version; the one that is shown when absent.
        #[arg(long)]
        version: Option<String>,
    },
    /// Delete an item. Its versions stay.
    Rm {
        /// SITE/NAME
        item: String,
    },
    /// List a site's items.
    Ls {
        /// The site.
        site: String,
    },
    /// List an item's versions, the newest first.
    Log {
        /// SITE/NAME
        item: String,
    },
    /// Tell where two versions differ.
    Diff {
        /// SITE/NAME
        item: String,
        /// The older version.
        from: String,
        /// The newer version.
        to: String,
    },
    /// Tell an item's open heads, or keep one of them.
    Conflicts {
        /// SITE/NAME
        item: String,
        /// Keep this version.
        #[arg(long)]
        keep: Option<String>,
    },
    /// Share a site's content with another.
    #[command(subcommand)]
    Share(Share),
    /// Read all of a site's items, and tell those that are not whole.
    Verify {
        /// The site.
        site: String,
    },
}

/// What can be done with shares.
#[derive(Debug, Subcommand)]
pub(crate) enum Share {
    /// Offer a site's content to another, or to another tenant.
    Offer {
        /// Whose content it is.
        source: String,
        /// The site that gets it; left out with `--to`.
        #[arg(required_unless_present = "to", conflicts_with = "to")]
        target: Option<String>,
        /// Another tenant that gets it, once it accepts; it says into which site.
        #[arg(long)]
        to: Option<String>,
        /// Items whose names begin so; all when absent.
        #[arg(long)]
        prefix: Option<String>,
        /// How the target has it: `mirror`, `fork_follow` or `copy_once`.
        #[arg(long, default_value = "mirror")]
        mode: String,
        /// A region into which it may go; all when absent.
        #[arg(long)]
        allow: Vec<String>,
        /// A region into which it may not go, whatever is allowed.
        #[arg(long)]
        deny: Vec<String>,
        /// Who moves it: `push` by the source, `pull` by the target, or `both`. Within a tenant both are the same.
        #[arg(long, default_value = "both")]
        direction: String,
        /// Have the target follow each change, instead of waiting for `share sync`.
        #[arg(long)]
        eager: bool,
        /// A member of JSON items that the target does not see. What is not JSON stays, then.
        #[arg(long)]
        hide: Vec<String>,
        /// A member of JSON items that it sees, and no other; `--hide` wins.
        #[arg(long)]
        show: Vec<String>,
        /// What the target may: `update`, `reshare`, `export`.
        #[arg(long, value_parser = ["update", "reshare", "export"])]
        may: Vec<String>,
    },
    /// Accept what was offered, or go on after a suspension.
    Accept {
        /// The share.
        share: String,
        /// The tenant that offered it, if that is another one.
        #[arg(long, requires = "site")]
        from: Option<String>,
        /// The site that takes what another tenant shares.
        #[arg(long, requires = "from")]
        site: Option<String>,
    },
    /// Stop it for a while.
    Suspend {
        /// The share.
        share: String,
    },
    /// End it for good.
    Revoke {
        /// The share.
        share: String,
    },
    /// Tell what would move, where to, and what stands in its way.
    Preview {
        /// The share.
        share: String,
    },
    /// Bring the target up to the source.
    Sync {
        /// The share.
        share: String,
    },
    /// List all shares.
    Ls,
}
