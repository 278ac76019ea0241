package spec

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"cocoon/internal/fault"
	"cocoon/measurements/modelpack"
)

// Codes of faults that concern encrypted model packs.
const (
	CodeKeyAbsent  = "vm.model_key.absent"  // an encrypted pack, and the config names no key
	CodeKeyDiffers = "vm.model_key.differs" // the config names another pack's key
	CodeKeyPlain   = "vm.model_key.plain"   // the config names a key, and the pack is plain
	CodeKeyService = "vm.model_key.service" // the guest cannot reach who has the key
)

// modelKeyed is what of the guest's documents concerns encrypted packs. Other
// members are the guest's to judge, which may be of another release.
type modelKeyed struct {
	Name      string  `json:"name"`
	KeySHA256 *string `json:"key_sha256"`
}

// checkModelKeys holds what the model packs say of their keys against config and
// operator file. The guest would find it out, too, but late: after minutes of a
// boot. What a pack says at its end proves nothing; a pack without a description,
// or documents that cannot be read, are left to the guest.
func (s *Spec) checkModelKeys() error {
	var config struct {
		Model  modelKeyed   `json:"model"`
		Models []modelKeyed `json:"models"`
	}
	type services struct {
		ModelKeys string `json:"model_keys"`
	}
	var operator struct {
		services
		Models map[string]services `json:"models"`
	}
	if !readDocument(s.Config, &config) {
		return nil
	}
	models := append([]modelKeyed{config.Model}, config.Models...)
	var errs []error
	for i, m := range models {
		if packs := s.Packs.ModelPacks(); i < len(packs) {
			errs = append(errs, checkModelKey(packs[i], m))
		}
	}
	if !readDocument(s.Operator, &operator) {
		return errors.Join(errs...)
	}
	asked := map[string]bool{}
	for _, m := range models {
		service := cmp.Or(operator.Models[m.Name].ModelKeys, operator.ModelKeys)
		if m.KeySHA256 == nil || asked[service] {
			continue
		}
		asked[service] = true
		errs = append(errs, s.checkKeyService(service))
	}
	return errors.Join(errs...)
}

func checkModelKey(path string, m modelKeyed) error {
	f, d, err := modelpack.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	switch what := "the key that config.json names for " + path; {
	case d.KeySHA256 == nil && m.KeySHA256 == nil:
		return nil
	case d.KeySHA256 == nil:
		return fault.New(fault.ExitParse, CodeKeyPlain, "leave key_sha256 out of config.json, or give the encrypted pack",
			"looking at the model packs: %s is not encrypted, and config.json names a key for it", path)
	case m.KeySHA256 == nil:
		return fault.Mismatch(fault.ExitParse, CodeKeyAbsent, what, d.KeySHA256.String(), "none",
			"write into config.json what this prints: cocoon model show "+path)
	case *m.KeySHA256 != d.KeySHA256.String():
		return fault.Mismatch(fault.ExitParse, CodeKeyDiffers, what, d.KeySHA256.String(), fmt.Sprintf("%.64s", *m.KeySHA256),
			"write into config.json what this prints: cocoon model show "+path)
	}
	return nil
}

// checkKeyService looks for the way to the service that has the key: the guest
// has no resolver, and reaches what forwards name and nothing else.
func (s *Spec) checkKeyService(service string) error {
	if service == "" {
		return fault.New(fault.ExitParse, CodeKeyService, "write the URL of the model owner's service into operator.json: model_keys",
			"looking for the model's key: config.json names one, operator.json no service that has it")
	}
	u, err := url.Parse(service)
	var to netip.AddrPort
	if err == nil {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		to, err = netip.ParseAddrPort(u.Hostname() + ":" + port)
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return fault.New(fault.ExitParse, CodeKeyService, "write model_keys in operator.json as http:// or https:// with an IPv4 address",
			"looking for the model's key: %.128q is not the URL of a service as the guest reaches it", service)
	}
	if !slices.ContainsFunc(s.Forwards, func(f Forward) bool { return f.Guest == to.String() }) {
		return fault.New(fault.ExitParse, CodeKeyService, fmt.Sprintf("add the forward of guest %s to the model owner's service, or correct model_keys in operator.json", to),
			"looking for the model's key: model_keys in operator.json is at %s, and no forward leads there", to)
	}
	return nil
}

func readDocument(path string, v any) bool {
	if path == "" {
		return false
	}
	b, err := readLimited(path, MaxFwCfgSize)
	return err == nil && json.Unmarshal(b, v) == nil
}
