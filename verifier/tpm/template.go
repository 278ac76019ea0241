// Package tpm verifies what a TPM 2.0 shows: attestation key certificates,
// enrolment by credential activation, and quotes. In come bytes of TPM
// structures (TPM 2.0 Library, Part 2) and certificates, out come checks; all
// of it is untrusted until the checks say otherwise.
package tpm

import (
	"github.com/google/go-tpm/tpm2"
)

// PCRs is the selection that a quote must have, exactly: SHA-256 bank, PCR 0
// to 9 and 11 to 15. PCR 10 belongs to the kernel's IMA, whose log is not
// part of the evidence.
func PCRs() []uint { return []uint{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15} }

// Selection returns PCRs as a quote takes it.
func Selection() tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      tpm2.TPMAlgSHA256,
		PCRSelect: tpm2.PCClientCompatible.PCRs(PCRs()...),
	}}}
}

// AKTemplate returns the public area of an attestation key that Enroller
// accepts: ECDSA P-256 with SHA-256, restricted to data that the TPM made,
// bound to this TPM, with an empty authorisation.
func AKTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
	}
}

// NV indices of endorsement key certificates (TCG EK Credential Profile 2.5,
// section 2.2.1.4). The key of each is made from the default template of the
// same name in go-tpm: tpm2.RSAEKTemplate and tpm2.ECCEKTemplate.
const (
	NVIndexRSA2048 = 0x01C00002
	NVIndexP256    = 0x01C0000A
)
