//! What an operator of the coordinators' machines relies on, with real programs and without Docker: the files that
//! `etcd-config` makes start a real etcd.

mod etcd_config;
