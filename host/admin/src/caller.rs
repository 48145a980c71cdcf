//! Who asks, and what each role may: the matrix is data.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words = Self::ALL.iter().map(|word| word.as_str());
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
            }
        }

        impl ToSchema for $name {}

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                let all = || Self::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", ");
                found.ok_or_else(|| format!("`{text}` is none of {}", all()))
            }
        }
    };
}

words! {
    /// What someone is here.
    Role {
        /// Everything, tokens too.
        Admin = "admin",
        /// Sees everything and changes nothing.
        Auditor = "auditor",
        /// Runs the platform.
        Operator = "operator",
        /// Runs one tenant: its policy's rollouts and its tokens.
        TenantAdmin = "tenant-admin",
        /// An application of one tenant: reads and writes its rows.
        TenantApp = "tenant-app",
        /// Makes one tenant's policy.
        TenantDev = "tenant-dev",
    }
}

words! {
    /// What a route asks for. For a caller of a tenant each means its own tenant's alone.
    Scope {
        /// Walk through the log and check it.
        AuditRead = "audit:read",
        /// Freeze policies, switch tenants' policies off.
        BreakGlass = "break-glass",
        /// Take cached responses back.
        CachePurge = "cache:purge",
        /// Read the log of changes.
        ChangeRead = "change:read",
        /// Make changes of many objects, apply files, go back.
        ChangeWrite = "change:write",
        /// Read a tenant's rows.
        DataRead = "data:read",
        /// Write a tenant's rows.
        DataWrite = "data:write",
        /// Read recorded decisions.
        DecisionRead = "decision:read",
        /// Listen to events.
        EventRead = "event:read",
        /// Ask what would become of a request.
        Explain = "explain",
        /// Move shards between regions, freeze and steer failover.
        FailoverWrite = "failover:write",
        /// Read objects of intent.
        ObjectRead = "object:read",
        /// Change objects of intent.
        ObjectWrite = "object:write",
        /// Look at operations.
        OperationRead = "operation:read",
        /// Upload versions of plugins.
        PluginPush = "plugin:push",
        /// List plugins and their versions.
        PluginRead = "plugin:read",
        /// Have single requests decided by a version that no slot runs.
        PreviewWrite = "preview:write",
        /// Record decisions, and run recorded ones again.
        Replay = "replay",
        /// Look at rollouts.
        RolloutRead = "rollout:read",
        /// Start, promote, pause and end rollouts.
        RolloutWrite = "rollout:write",
        /// Move tenants from one shard to another.
        ShardMove = "shard:move",
        /// Compare copies of shards with their primaries, and put them right.
        ShardRepair = "shard:repair",
        /// See how nodes stand.
        StatusRead = "status:read",
        /// Listen to requests as they are decided.
        TailRead = "tail:read",
        /// Read a tenant's log, usage, quotas and refusals.
        TenantRead = "tenant:read",
        /// List tokens.
        TokenRead = "token:read",
        /// Make and revoke tokens.
        TokenWrite = "token:write",
        /// Export usage of all tenants.
        UsageRead = "usage:read",
    }
}

/// What each role may. Whatever is not written here is refused.
pub const MATRIX: &[(Role, &[Scope])] = &[
    (Role::Admin, Scope::ALL),
    (
        Role::Auditor,
        &[
            Scope::AuditRead,
            Scope::ChangeRead,
            Scope::DecisionRead,
            Scope::EventRead,
            Scope::Explain,
            Scope::ObjectRead,
            Scope::OperationRead,
            Scope::PluginRead,
            Scope::RolloutRead,
            Scope::StatusRead,
            Scope::TenantRead,
            Scope::TokenRead,
            Scope::UsageRead,
        ],
    ),
    (
        Role::Operator,
        &[
            Scope::BreakGlass,
            Scope::CachePurge,
            Scope::ChangeRead,
            Scope::ChangeWrite,
            Scope::DecisionRead,
            Scope::EventRead,
            Scope::Explain,
            Scope::FailoverWrite,
            Scope::ObjectRead,
            Scope::ObjectWrite,
            Scope::OperationRead,
            Scope::PluginPush,
            Scope::PluginRead,
            Scope::PreviewWrite,
            Scope::Replay,
            Scope::RolloutRead,
            Scope::RolloutWrite,
            Scope::ShardMove,
            Scope::ShardRepair,
            Scope::StatusRead,
            Scope::TailRead,
            Scope::TenantRead,
            Scope::UsageRead,
        ],
    ),
    (
        Role::TenantAdmin,
        &[
            Scope::CachePurge,
            Scope::ChangeRead,
            Scope::DataRead,
            Scope::DataWrite,
            Scope::DecisionRead,
            Scope::EventRead,
            Scope::Explain,
            Scope::ObjectRead,
            Scope::ObjectWrite,
            Scope::OperationRead,
            Scope::PluginPush,
            Scope::PluginRead,
            Scope::PreviewWrite,
            Scope::Replay,
            Scope::RolloutRead,
            Scope::RolloutWrite,
            Scope::TailRead,
            Scope::TenantRead,
            Scope::TokenRead,
            Scope::TokenWrite,
        ],
    ),
    (Role::TenantApp, &[Scope::DataRead, Scope::DataWrite]),
    (
        Role::TenantDev,
        &[
            Scope::DecisionRead,
            Scope::EventRead,
            Scope::Explain,
            Scope::ObjectRead,
            Scope::OperationRead,
            Scope::PluginPush,
            Scope::PluginRead,
            Scope::PreviewWrite,
            Scope::Replay,
            Scope::RolloutRead,
            Scope::TailRead,
            Scope::TenantRead,
        ],
    ),
];

impl Role {
    /// What it may.
    #[must_use]
    pub fn scopes(self) -> BTreeSet<Scope> {
        let row = MATRIX.iter().find(|(role, _)| *role == self);
        row.map(|(_, scopes)| scopes.iter().copied().collect()).unwrap_or_default()
    }

    /// Is it a role within one tenant?
    #[must_use]
    pub const fn is_of_tenant(self) -> bool {
        matches!(self, Self::TenantAdmin | Self::TenantApp | Self::TenantDev)
    }
}

/// By which way a caller was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A certificate.
    Certificate,
    /// A token of an identity provider.
    Oidc,
    /// The node's own socket, by a process of its own user or of root.
    Socket,
    /// A token of portolan.
    Token,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The same for each request of the same one, and no other's.
    pub id: String,
    /// For people, and for the log of changes.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// What it may: its role's, or fewer.
    pub scopes: BTreeSet<Scope>,
    /// Whose it is; none for the platform's own people.
    pub tenant: Option<TenantName>,
    /// How it was recognised.
    pub way: Way,
    /// Until when, in milliseconds since 1970.
    pub until_ms: Option<u64>,
}

impl Caller {
    /// May it do this?
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// May it see what belongs to this tenant? What belongs to none is the platform's.
    #[must_use]
    pub fn sees(&self, tenant: Option<&TenantName>) -> bool {
        self.tenant.is_none() || self.tenant.as_ref() == tenant
    }

    /// How the log of changes calls it. Nobody else's begins as a tenant's does.
    #[must_use]
    pub fn author(&self) -> String {
        let Self { name, role, .. } = self;
        match (&self.tenant, self.way) {
            (Some(tenant), _) => format!("{}{name} ({role})", tenant_prefix(tenant)),
            (None, Way::Socket) => name.clone(),
            (None, _) => format!("{name} ({role})"),
        }
    }

    /// What a tenant's caller is shown of an author: its own tenant's by name, all others as one.
    #[must_use]
    pub fn shown_author(&self, author: &str) -> String {
        match &self.tenant {
            Some(tenant) if !author.starts_with(&tenant_prefix(tenant)) => "the operator".to_owned(),
            _ => author.to_owned(),
        }
    }
}

/// What a tenant's authors begin with. No name of another has a `:` after `tenant/NAME`, because names of tenants have none.
fn tenant_prefix(tenant: &TenantName) -> String {
    format!("tenant/{tenant}: ")
}
