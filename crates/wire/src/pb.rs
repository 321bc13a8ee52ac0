//! The types that are generated from `proto/sled.proto`, which documents them.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

tonic::include_proto!("sled.v1");
