//! Clients to other clusters: bounded in time, without retries, names resolved without NSS.
