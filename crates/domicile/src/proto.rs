//! The generated side of `proto/domicile.proto`. Each boundary lifts these into its own types.

tonic::include_proto!("domicile.v1");
