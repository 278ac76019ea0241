package nvgputest

import (
	"time"

	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/rimtest"
)

// Serve gives a RIM and OCSP service what it needs to answer for a device: its
// documents under their IDs, and the certificates to answer for, as of
// thisUpdate.
func (p *PKI) Serve(s *rimtest.Server, d *Device, thisUpdate time.Time) error {
	chain, err := p.chain(d)
	if err != nil {
		return err
	}
	issued := func(chain []*authority) {
		for i := range len(chain) - 1 {
			s.Issued(chain[i].shared(), chain[i+1].shared())
			s.Answer(chain[i].shared(), rimtest.Answer{This: thisUpdate})
		}
	}
	issued(chain[1:])
	for i, r := range RIMs(d) {
		doc, err := p.Sign(&r)
		if err != nil {
			return err
		}
		signers, err := p.rimChain(&r)
		if err != nil {
			return err
		}
		issued(signers)
		switch {
		case d.Chip == "LS_10":
			s.Put(rim.SwitchID(d.VBIOS), doc)
		case i == 0 && d.Chip == "GH100":
			s.Put(rim.DriverID(rim.Hopper, "", d.Driver), doc)
		case i == 0:
			s.Put(rim.DriverID(rim.Blackwell, d.ChipInfo, d.Driver), doc)
		default:
			s.Put(rim.VBIOSID(d.Project[0], d.Project[1], d.Project[2], d.VBIOS), doc)
		}
	}
	return nil
}
