package pck

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// oidSGX is the SGX extension of a PCK certificate (PCK certificate profile,
// section 1.3.5); its members are numbered below it.
var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// Members of the SGX extension.
const (
	extPPID = 1 + iota
	extTCB
	extPCEID
	extFMSPC
	extSGXType
	extInstanceID
	extConfiguration
)

// Members of the TCB and of the configuration.
const (
	tcbPCESVN     = 17
	tcbCPUSVN     = 18
	configDynamic = 1
	configCached  = 2
	configSMT     = 3
)

// parse reads the SGX extension of a PCK certificate. Members that are not
// known are ignored, as Intel adds to them; those known must be there once,
// with the type and size of the profile.
func (e *Extensions) parse(cert *x509.Certificate) error {
	var ext []byte
	for _, x := range cert.Extensions {
		if x.Id.Equal(oidSGX) {
			ext = x.Value // crypto/x509 refuses duplicate extensions
		}
	}
	if ext == nil {
		return fmt.Errorf("PCK certificate has no SGX extension: %w", ErrMalformed)
	}
	var got uint
	in := cryptobyte.String(ext)
	err := members(&in, oidSGX, func(n int, v *cryptobyte.String) bool {
		if got&(1<<n) != 0 {
			return false
		}
		got |= 1 << n
		switch n {
		case extPPID:
			return octets(v, e.PPID[:])
		case extTCB:
			return e.parseTCB(v)
		case extPCEID:
			return octets(v, e.PCEID[:])
		case extFMSPC:
			return octets(v, e.FMSPC[:])
		case extSGXType:
			return v.ReadASN1Enum(&e.SGXType) && v.Empty() && e.SGXType >= 0 && e.SGXType <= 2
		case extInstanceID:
			e.PlatformInstanceID = make([]byte, 16)
			return octets(v, e.PlatformInstanceID)
		case extConfiguration:
			return e.parseConfiguration(v)
		}
		return true
	})
	const required = 1<<extPPID | 1<<extTCB | 1<<extPCEID | 1<<extFMSPC | 1<<extSGXType
	if err != nil || !in.Empty() || got&required != required {
		return fmt.Errorf("SGX extension of PCK certificate: %w", ErrMalformed)
	}
	return nil
}

func (e *Extensions) parseTCB(v *cryptobyte.String) bool {
	var got uint32
	oid := append(oidSGX[:len(oidSGX):len(oidSGX)], extTCB)
	err := members(v, oid, func(n int, v *cryptobyte.String) bool {
		if got&(1<<n) != 0 {
			return false
		}
		got |= 1 << n
		switch {
		case n >= 1 && n <= 16:
			var svn uint8
			ok := v.ReadASN1Integer(&svn) && v.Empty()
			e.Components[n-1] = svn
			return ok
		case n == tcbPCESVN:
			return v.ReadASN1Integer(&e.PCESVN) && v.Empty()
		case n == tcbCPUSVN:
			return octets(v, e.CPUSVN[:])
		}
		return true
	})
	return err == nil && v.Empty() && got&(1<<19-2) == 1<<19-2
}

func (e *Extensions) parseConfiguration(v *cryptobyte.String) bool {
	var got uint32
	oid := append(oidSGX[:len(oidSGX):len(oidSGX)], extConfiguration)
	err := members(v, oid, func(n int, v *cryptobyte.String) bool {
		if got&(1<<n) != 0 {
			return false
		}
		got |= 1 << n
		if n < configDynamic || n > configSMT {
			return true
		}
		b := new(bool)
		if !v.ReadASN1Boolean(b) || !v.Empty() {
			return false
		}
		switch n {
		case configDynamic:
			e.DynamicPlatform = b
		case configCached:
			e.CachedKeys = b
		case configSMT:
			e.SMTEnabled = b
		}
		return true
	})
	return err == nil && v.Empty()
}

// members reads a SEQUENCE of SEQUENCE {OID, value} whose OIDs are one number
// below prefix, and calls member with that number and the value.
func members(in *cryptobyte.String, prefix asn1.ObjectIdentifier, member func(n int, v *cryptobyte.String) bool) error {
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) {
		return ErrMalformed
	}
	for !list.Empty() {
		var item cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !list.ReadASN1(&item, cbasn1.SEQUENCE) || !item.ReadASN1ObjectIdentifier(&oid) ||
			len(oid) != len(prefix)+1 || !oid[:len(prefix)].Equal(prefix) {
			return ErrMalformed
		}
		n := oid[len(prefix)]
		if n < 1 || n > 31 || !member(n, &item) {
			return ErrMalformed
		}
	}
	return nil
}

func octets(v *cryptobyte.String, out []byte) bool {
	var s cryptobyte.String
	return v.ReadASN1(&s, cbasn1.OCTET_STRING) && v.Empty() && s.CopyBytes(out) && s.Empty()
}
