package tpmdev

import "cocoon/contracts/wallet"

// A wallet that lives in an enclave keeps its key sealed by the TPM.
var _ wallet.Sealer = Sealer{}
