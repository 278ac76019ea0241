package nras

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// required are the claims, by the end of their names after "x-nvidia-gpu-" or
// "x-nvidia-switch-", that both claims versions have: without them a token
// says nothing.
func required() []string {
	return []string{"arch-check", "attestation-report-parsed", "attestation-report-nonce-match", "attestation-report-signature-verified"}
}

// checkDevice checks a device's claims: measurements compared, no debug, no
// error, every step that the service reports as done is good, every chain
// valid and not revoked. Claims that are not known here count too: a false
// one refuses.
func (c *claims) checkDevice() error {
	var errs []error
	if len(c.Error) > 0 && string(c.Error) != "null" {
		errs = append(errs, fmt.Errorf("the service reports an error: %.200s", c.Error))
	}
	if c.Measures != "success" {
		errs = append(errs, fmt.Errorf("measurements: %.32q, want success", c.Measures))
	}
	if c.SecureBoot == nil || !*c.SecureBoot {
		errs = append(errs, errors.New("secure boot is not true"))
	}
	if c.Debug != "disabled" {
		errs = append(errs, fmt.Errorf("debug: %.32q, want disabled", c.Debug))
	}
	prefix := "x-nvidia-gpu-"
	if _, ok := c.raw["x-nvidia-switch-arch-check"]; ok {
		prefix = "x-nvidia-switch-"
	}
	for _, name := range required() {
		if _, ok := c.raw[prefix+name].(bool); !ok {
			errs = append(errs, fmt.Errorf("claim %s is missing", prefix+name))
		}
	}
	names := make([]string, 0, len(c.raw))
	for name := range c.raw {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !strings.HasPrefix(name, "x-nvidia-") {
			continue
		}
		switch v := c.raw[name].(type) {
		case bool:
			if !v {
				errs = append(errs, fmt.Errorf("claim %.80s is false", name))
			}
		case map[string]any:
			if strings.HasSuffix(name, "-cert-chain") {
				errs = append(errs, checkChain(name, v))
			}
		}
	}
	return errors.Join(errs...)
}

// checkChain checks what claims 3.0 say of a certificate chain.
func checkChain(name string, chain map[string]any) error {
	for key, want := range map[string]string{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"} {
		if got, _ := chain[key].(string); got != want {
			return fmt.Errorf("claim %.80s: %s is %.32q, want %q", name, key, got, want)
		}
	}
	for key, v := range chain {
		if b, ok := v.(bool); ok && !b {
			return fmt.Errorf("claim %.80s: %.80s is false", name, key)
		}
	}
	return nil
}
