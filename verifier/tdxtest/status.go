package tdxtest

import (
	"fmt"

	"cocoon/verifier/collateral"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
)

// Case is a quote with collateral.
type Case struct {
	Quote      Quote
	Collateral Collateral
}

// StatusTDX is a case of a TDX quote with a status: version 4, or version 5
// with a TDX 1.5 body for the two relaunch statuses, which version 4 lacks.
func StatusTDX(status tcb.Status) Case {
	c := Case{Quote: DefaultTDX(4, quote.BodyTD10), Collateral: DefaultCollateral(quote.TEETDX)}
	level := &c.Collateral.Info.Levels[0]
	switch status {
	case tcb.TDRelaunchAdvised, tcb.TDRelaunchAdvisedConfigurationNeeded:
		c.Quote = DefaultTDX(5, quote.BodyTD15)
		c.Quote.TD.TEETCBSVN[0] = 2 // the module of the launch is out of date
		if status == tcb.TDRelaunchAdvisedConfigurationNeeded {
			level.Status = tcb.ConfigurationNeeded
		}
	case tcb.NotSupported:
		c.Quote.TD.TEETCBSVN[1] = 9 // no such module identity
	default:
		level.Status = status
	}
	return c
}

// StatusSGX is a case of an SGX quote, version 3, with a status. SGX has no
// relaunch statuses: they give UpToDate.
func StatusSGX(status tcb.Status) Case {
	c := Case{Quote: DefaultSGX(3), Collateral: DefaultCollateral(quote.TEESGX)}
	switch status {
	case tcb.TDRelaunchAdvised, tcb.TDRelaunchAdvisedConfigurationNeeded:
	case tcb.NotSupported:
		c.Quote.Platform.PCESVN = 1
	default:
		c.Collateral.Info.Levels[0].Status = status
	}
	return c
}

// Make makes the case's quote and collateral.
func (p *PKI) Make(c *Case) ([]byte, *collateral.Raw, error) {
	q, err := p.Quote(&c.Quote)
	if err != nil {
		return nil, nil, fmt.Errorf("making test quote: %w", err)
	}
	raw, err := p.Collateral(&c.Collateral)
	if err != nil {
		return nil, nil, fmt.Errorf("making test collateral: %w", err)
	}
	return q, raw, nil
}
