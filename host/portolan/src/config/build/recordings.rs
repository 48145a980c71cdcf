//! What is kept of decisions.

use portolan_core::attribute::Attribute;
use portolan_recorder::{Rules, Settings};

use super::Builder;
use crate::config::raw::RawRecordings;

impl Builder<'_> {
    pub(super) fn recordings(&mut self, raw: RawRecordings) -> Settings {
        let standard = Settings::default();
        let mut attributes = |key: &str, names: Vec<String>| {
            let parse = |(index, name): (usize, String)| {
                let attribute = Attribute::parse(&name);
                let at = ["recordings", key, &index.to_string()];
                attribute
                    .map_err(|error| {
                        self.problem(
                            &at,
                            error.to_string(),
                            "name one as a policy would, such as `header:x-session`",
                        )
                    })
                    .ok()
            };
            names.into_iter().enumerate().filter_map(parse).collect::<Vec<_>>()
        };
        let rules = Rules {
            allow: attributes("allow", raw.allow),
            drop: attributes("drop", raw.drop),
            hide: attributes("hide", raw.hide),
        };
        Settings {
            disk_bytes_max: raw.disk_bytes.unwrap_or(standard.disk_bytes_max),
            failures_per_second: raw.failures_per_second.unwrap_or(standard.failures_per_second),
            keep: self.time(&["recordings", "keep"], raw.keep).unwrap_or(standard.keep),
            memory_bytes_max: raw.memory_bytes.map_or(standard.memory_bytes_max, |bytes| bytes as usize),
            rules,
            sample_permille: raw.sample_permille.map_or(standard.sample_permille, u32::from),
            segment_bytes_max: raw.segment_bytes.map_or(standard.segment_bytes_max, u64::from),
            shadow_permille: raw.shadow_permille.map_or(standard.shadow_permille, u32::from),
        }
    }
}
