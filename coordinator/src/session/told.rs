//! What agents are told of the coordinators: who leads, and where all of them are. Asked by `greet`, `standby` and
//! `stream`.
//!
//! Invariant: pure; who leads is what the newest term says; one that led and does not any more names nobody until another
//! one does.

use super::Settings;
use crate::world::World;

/// Address of the active coordinator (empty: not known), and of all of them.
pub type Whereabouts = (String, Vec<String>);

impl Settings {
    /// As this coordinator says it; `leads`: it is the active one itself.
    pub fn told(&self, world: &World, leads: bool) -> Whereabouts {
        let ours = self.coordinators.first().map(String::as_str).unwrap_or_default();
        let on_record = world
            .leader()
            .map(|(_, term)| term.address.as_str())
            .unwrap_or_default();
        let leader = match on_record {
            // A term of a coordinator that has no standbys names no address.
            "" if leads => ours,
            address if !leads && address == ours => "",
            address => address,
        };
        let mut all = world.coordinator_addresses();
        if all.is_empty() {
            all.clone_from(&self.coordinators);
        }
        (leader.to_owned(), all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{Rv, Update, keys},
        world::record,
    };

    fn put(world: &mut World, key: String, value: Vec<u8>) {
        let rv = Rv(world.rv.0 + 1);
        let value = Some(value.into());
        world.apply(&Update { rv, key, value }).unwrap();
    }

    fn term(world: &mut World, term: u64, coordinator: &str, address: &str) {
        let record = keys::TermRecord {
            incarnation: "i".into(),
            nonce: "n".into(),
            holder: "h:1".into(),
            coordinator: coordinator.into(),
            address: address.into(),
        };
        put(world, keys::term_history(term), record::encode(&record));
    }

    #[test]
    fn one_coordinator_names_itself_by_its_configuration() {
        let settings = Settings {
            coordinators: vec!["c1:7443".into()],
            ..Settings::default()
        };
        let mut world = World::default();
        term(&mut world, 1, "", "");
        assert_eq!(settings.told(&world, true), ("c1:7443".into(), vec!["c1:7443".into()]));
        assert_eq!(settings.told(&world, false).0, "");
    }

    #[test]
    fn with_several_the_newest_term_says_who_leads_and_the_records_where_all_are() {
        let settings = Settings {
            coordinators: vec!["c2:7443".into()],
            ..Settings::default()
        };
        let mut world = World::default();
        for name in ["c1", "c2", "c3"] {
            let record =
                serde_json::json!({"address": format!("{name}:7443"), "enrol": "", "joined": "2026-01-01T00:00:00Z"});
            put(
                &mut world,
                format!("coordinator/{name}"),
                record.to_string().into_bytes(),
            );
        }
        let all = |first: &str, second: &str, third: &str| vec![first.into(), second.into(), third.into()];
        term(&mut world, 1, "c2", "c2:7443");
        let led = all("c2:7443", "c1:7443", "c3:7443");
        assert_eq!(settings.told(&world, true), ("c2:7443".into(), led.clone()));
        // It has given up, and nobody has followed yet.
        assert_eq!(settings.told(&world, false), (String::new(), led));
        term(&mut world, 9, "c3", "c3:7443");
        let led = all("c3:7443", "c1:7443", "c2:7443");
        assert_eq!(settings.told(&world, false), ("c3:7443".into(), led));
    }
}
