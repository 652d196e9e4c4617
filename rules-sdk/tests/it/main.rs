//! What rule authors see of the SDK: manifests, native runs, and what the compiler says of mistakes.

mod manifest;
mod misuse;
mod running;
