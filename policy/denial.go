package policy

// Code says what kind of refusal a denial is.
type Code int

// Kinds of refusals, from RFC 6749 §5.2 and RFC 8693 §2.2.2.
const (
	InvalidRequest     Code = iota + 1 // the subject or actor token is not acceptable
	InvalidTarget                      // the audience is not
	InvalidScope                       // a scope is not
	UnauthorizedClient                 // the requester may not ask for anything
	InvalidProof                       // the key of DPoP that is needed was not proven
)

// Denial is a refusal by policy.
type Denial struct {
	Code    Code
	Message string   // safe for the caller: repeats nothing of the request
	Reasons []Reason // for the operator: candidate rules, the nearest first
}

// Reason says which predicate kept a rule from granting a request. Without a rule
// it was something that no rule can change, and the predicate names a parameter
// and a claim.
type Reason struct {
	Rule, Predicate, Presented, Expected string
	Hint                                 string // what may be meant; may be empty
}

// maxReasons bounds how many rules a denial explains.
const maxReasons = 20

func (d *Denial) Error() string {
	if len(d.Reasons) == 0 {
		return "denied by policy"
	}
	r := d.Reasons[0]
	if r.Rule == "" {
		return "denied by policy: " + r.Predicate
	}
	return "denied by policy, nearest rule " + r.Rule + ": " + r.Predicate
}

func deny(code Code, message string) *Denial { return &Denial{Code: code, Message: message} }

// because adds a reason that is not about a rule.
func (d *Denial) because(predicate, presented, expected string) *Denial {
	d.Reasons = append(d.Reasons, Reason{Predicate: predicate, Presented: presented, Expected: expected})
	return d
}

// stage is how far a rule came with a request.
type stage int

const (
	atRequester stage = iota
	atSubject
	atActor
	atAudience
	atType
	atAge
	atLimit
	atWhen
	atScopes
	matched
)

// denials are the answers when no rule came further than a stage.
var denials = [matched]struct {
	code    Code
	message string
}{
	atRequester: {UnauthorizedClient, "no rule allows this requester to get a token in this way"},
	atSubject:   {InvalidRequest, "no rule allows this requester to use this subject token"},
	atActor:     {InvalidRequest, "no rule allows this actor for this subject"},
	atAudience:  {InvalidTarget, "no rule allows a token for this audience to this requester and subject"},
	atType:      {InvalidRequest, "no rule allows a token of this requested_token_type"},
	atAge:       {InvalidRequest, "the subject_token, or the authentication of its subject, is too old for the rule for this request; present a fresh one"},
	atLimit:     {InvalidRequest, "the chain of exchanges would be longer than the rule for this request allows"},
	atWhen:      {InvalidRequest, "the condition of the rule for this request does not hold"},
	atScopes:    {InvalidScope, "the subject_token has no claim that gives it a scope"},
}
