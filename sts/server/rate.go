package server

import (
	"cmp"
	"errors"
	"strings"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// RateFromProto converts a rate whose period is a time.
func RateFromProto(m *stsv1.Rate) sts.Rate { return (&converter{}).rate("", m) }

// CheckRate says what is wrong with a rate, as it is in a configuration; one that is
// not there is right.
func CheckRate(m *stsv1.Rate) error {
	c := &converter{}
	r := c.rate("rate", m)
	if len(c.problems) > 0 {
		p := c.problems[0]
		return errors.New(cmp.Or(strings.TrimPrefix(strings.TrimPrefix(p.Field, "rate"), "."), "it") + " " + p.Message)
	}
	return r.Check()
}

func (c *converter) rate(field string, m *stsv1.Rate) sts.Rate {
	if m == nil {
		return sts.Rate{}
	}
	r := sts.Rate{Count: int(m.GetCount()), Period: c.duration(field+".period", m.GetPeriod()), Burst: int(m.GetBurst())}
	if r == (sts.Rate{}) {
		c.problem(field, "says nothing; set count, or leave it out")
	}
	return r
}

func rateToProto(r sts.Rate) *stsv1.Rate {
	if r == (sts.Rate{}) {
		return nil
	}
	return &stsv1.Rate{Count: int32(r.Count), Period: durationToProto(r.Period), Burst: int32(r.Burst)}
}
