//! The generated side of `proto/`. Each boundary lifts these into its own types.

tonic::include_proto!("domicile.v1");

/// The generated side of `proto/etcd.proto`.
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}
