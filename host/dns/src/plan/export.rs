//! A zone as a file that other servers read (RFC 1035, section 5): what all clients together are told, at the moment of the plan.

use super::{EPOCH_LABEL, Family, Plan};
use crate::defaults::{EXPIRE_S, REFRESH_S, RETRY_S, ZONE_TTL_S};
use crate::name::Name;

impl Plan {
    /// One of the plan's zones as a zone file; none when the zone is not the plan's. It holds still: somebody has to load it again
    /// with each plan.
    #[must_use]
    pub fn export(&self, zone: &Name) -> Option<String> {
        let index = self.zone(zone.wire())?;
        let draft = self.draft.zones.get(zone)?;
        let mut lines = vec![format!("; DNS plan {}, digest {}", self.draft.number, self.digest)];
        let (primary, mailbox) = (draft.primary(zone)?, &draft.mailbox);
        lines.push(format!(
            "{zone} {0} IN SOA {primary} {mailbox} {1} {REFRESH_S} {RETRY_S} {EXPIRE_S} {0}",
            draft.negative_ttl_s,
            self.serial(),
        ));
        for (server, addresses) in &draft.name_servers {
            lines.push(format!("{zone} {ZONE_TTL_S} IN NS {server}"));
            for address in addresses {
                let kind = Family::of(address).text();
                lines.push(format!("{server} {ZONE_TTL_S} IN {kind} {address}"));
            }
        }
        for managed in self.managed.iter().filter(|managed| managed.zone == index) {
            let (name, ttl) = (&managed.name, managed.ttl);
            for family in [Family::V4, Family::V6] {
                for address in managed.present(family).filter_map(super::address) {
                    lines.push(format!("{name} {} IN {} {address}", ttl.max_s, family.text()));
                }
            }
            lines.push(format!("{EPOCH_LABEL}.{name} {} IN TXT \"{}\"", ttl.min_s, self.draft.number));
        }
        lines.push(String::new());
        Some(lines.join("\n"))
    }
}

impl Family {
    const fn text(self) -> &'static str {
        match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
        }
    }
}
