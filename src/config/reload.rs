//! Pure: what of a new configuration cannot take effect while we run. The reload asks, logs the keys, and applies the rest.

use super::Config;

impl Config {
    /// The keys that differ in `new` and need a restart: what is bound, started or counted once.
    pub fn restart_needed(&self, new: &Config) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut differs = |key: &'static str, changed: bool| {
            if changed {
                keys.push(key);
            }
        };
        differs("listen.addresses", self.listen.addresses != new.listen.addresses);
        differs("listen.unix_socket_dir", self.listen.unix_socket_dir != new.listen.unix_socket_dir);
        differs("listen.workers", self.listen.workers != new.listen.workers);
        differs("admin.address", self.admin.address != new.admin.address);
        // A worker's cache is allotted when the worker starts.
        differs("limits.verdict_cache", self.limits.verdict_cache != new.limits.verdict_cache);
        differs("limits.parsed_statement", self.limits.parsed_statement != new.limits.parsed_statement);
        differs("log.format", self.log.format != new.log.format);
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_keys() {
        let old = Config::default();
        let mut new = old.clone();
        new.pool.size = 7;
        new.routing.hold_back = 1;
        assert_eq!(old.restart_needed(&new), Vec::<&str>::new());
        new.listen.workers += 1;
        new.admin.address = None;
        assert_eq!(old.restart_needed(&new), ["listen.workers", "admin.address"]);
    }
}
