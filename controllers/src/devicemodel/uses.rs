//! How many devices use each model, counted as devices come, change and go. Pure.

use std::collections::HashMap;

/// Namespace and name of a Device or DeviceModel.
pub type Key = (String, String);

/// See the module.
#[derive(Debug, Default)]
pub struct Uses {
    devices: HashMap<Key, Key>,
    counts: HashMap<Key, usize>,
}

impl Uses {
    /// A device uses this model from now on; none: it is gone. Returns the models whose count changed.
    pub fn set(&mut self, device: &Key, model: Option<Key>) -> Vec<Key> {
        if self.devices.get(device) == model.as_ref() {
            return Vec::new();
        }
        let before = self.devices.remove(device);
        if let Some(before) = &before {
            let count = self.counts.get(before).map_or(0, |count| count - 1);
            if count == 0 {
                self.counts.remove(before);
            } else {
                self.counts.insert(before.clone(), count);
            }
        }
        if let Some(model) = &model {
            *self.counts.entry(model.clone()).or_default() += 1;
            self.devices.insert(device.clone(), model.clone());
        }
        before.into_iter().chain(model).collect()
    }

    /// How many devices use a model.
    #[must_use]
    pub fn count(&self, model: &Key) -> usize {
        self.counts.get(model).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Uses};

    fn key(name: &str) -> Key {
        ("shops".to_owned(), name.to_owned())
    }

    #[test]
    fn counts_follow_devices_that_come_change_and_go() {
        let mut uses = Uses::default();
        assert_eq!(uses.set(&key("b1"), Some(key("boiler"))), [key("boiler")]);
        assert_eq!(uses.set(&key("b2"), Some(key("boiler"))), [key("boiler")]);
        assert!(uses.set(&key("b2"), Some(key("boiler"))).is_empty(), "a status was written");
        assert_eq!(uses.set(&key("b2"), Some(key("room"))), [key("boiler"), key("room")], "created anew");
        assert_eq!((uses.count(&key("boiler")), uses.count(&key("room"))), (1, 1));
        assert_eq!(uses.set(&key("b1"), None), [key("boiler")]);
        assert!(uses.set(&key("b1"), None).is_empty());
        assert_eq!((uses.count(&key("boiler")), uses.count(&key("room"))), (0, 1));
    }
}
