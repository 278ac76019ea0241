package main

import (
	"slices"
	"strings"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/nras"
	"cocoon/verifier/result"
)

// checkOpinionDevices is whether the service speaks of the devices that were
// verified here.
const checkOpinionDevices = "nras.same_devices"

// opinion reads NVIDIA's Remote Attestation Service's word on the machine's
// GPUs, where the flags give it. It can only refuse: what is accepted is
// accepted by the verification here.
func (f *verifyGPUFlags) opinion(m *nvgpu.Machine, o *nvgpu.Options) ([]result.Check, error) {
	if f.nras == "" {
		return nil, nil
	}
	doc, err := readInput("--nras", f.nras, nras.MaxBundle)
	if err != nil {
		return nil, err
	}
	set, err := readInput("--nras-keys", f.nrasKeys, nras.MaxKeySet)
	if err != nil {
		return nil, err
	}
	keys, err := nras.ParseJWKS(set, nil, o.Now)
	if err != nil {
		return nil, err
	}
	var here []string
	for _, d := range m.Devices {
		if d.Kind == nvgpu.KindGPU {
			here = append(here, d.UEID)
		}
	}
	token, checks, err := nras.Verify(doc, &nras.Options{Keys: keys, Nonce: o.Nonce[:], Count: len(here), Now: o.Now})
	if fault.ExitCode(err) == fault.ExitParse {
		return nil, err
	}
	if token == nil {
		return append(checks, result.Check{ID: checkOpinionDevices, Status: result.Skip, Reason: "the token does not hold"}), nil
	}
	var there []string
	for _, d := range token.Devices {
		there = append(there, d.UEID)
	}
	slices.Sort(here)
	slices.Sort(there)
	c := result.Check{ID: checkOpinionDevices, Status: result.Pass, Actual: strings.Join(there, " ")}
	if !slices.Equal(here, there) {
		c = result.Check{ID: checkOpinionDevices, Status: result.Fail, Expected: strings.Join(here, " "), Actual: strings.Join(there, " "),
			Reason: "the service's token is about other GPUs", Remedy: "ask the service about this evidence"}
	}
	return append(checks, c), nil
}
