//! Tocsin's protobuf messages and gRPC services, generated from the `.proto` files beside this crate. They are
//! documented there; nothing here is written by hand.

#![allow(missing_docs, clippy::doc_markdown, clippy::large_enum_variant)]

/// The message on `market_ticks`.
pub mod stock {
    tonic::include_proto!("stock");
}

/// GoStocks' alert service, wire-compatible.
pub mod alert {
    tonic::include_proto!("alert");
}

/// Tocsin's own services.
pub mod tocsin {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("tocsin.v1");
    }
}

/// The compiled descriptors of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
