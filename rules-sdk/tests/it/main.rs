//! The SDK as rule authors use it: manifests, native runs, and compile errors.

mod manifest;
mod misuse;
mod running;
