/** The section of offers: ask for resources, see what could be had, put it into a cell. */
import { addBelowIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import { ANYTHING, IWanted, taskCell } from '../cells';
import { sentenceOf } from '../commands';
import { countText, hourlyText, placeText } from '../format';
import { Fragment, h } from '../jsx';
import { IOfferRow, IOffers } from '../records';
import { post } from '../server';
import { IParts } from './parts';
import { Field, InsertButton, Section } from './section';

/** What was answered to a question, or why nothing was. */
type Answer =
  | { kind: 'none' }
  | { kind: 'waiting' }
  | { kind: 'offers'; wanted: IWanted; offers: IOffers }
  | { kind: 'failed'; sentence: string };

/** A form of what is wanted, and what fits. */
export class OffersSection extends Section {
  constructor(parts: IParts) {
    super(parts, { name: 'offers', label: parts.trans.__('Offers') });
  }

  protected told(): unknown[] {
    return [];
  }

  protected render() {
    return <OffersForm parts={this.parts} />;
  }
}

function OffersForm({ parts }: { parts: IParts }) {
  const { trans } = parts;
  const [wanted, setWanted] = React.useState<IWanted>(ANYTHING);
  const [answer, setAnswer] = React.useState<Answer>({ kind: 'none' });
  const asked = React.useRef(0);
  const summary = React.useRef<HTMLDivElement>(null);

  React.useEffect(() => {
    if (answer.kind === 'offers' || answer.kind === 'failed') {
      summary.current?.scrollIntoView({ block: 'start' });
    }
  }, [answer]);

  const ask = async () => {
    const turn = ++asked.current;
    setAnswer({ kind: 'waiting' });
    const next = await answerTo(wanted, parts);
    if (turn === asked.current) {
      setAnswer(next);
    }
  };
  const field = (name: keyof IWanted, label: string, example: string) => (
    <Field
      label={label}
      value={wanted[name]}
      example={example}
      onChange={value => setWanted({ ...wanted, [name]: value })}
    />
  );
  return (
    <>
      <form
        className="jp-dstack-Form"
        aria-label={trans.__('What the machine must have')}
        onSubmit={event => {
          event.preventDefault();
          void ask();
        }}
      >
        {field('gpu', trans.__('GPU'), 'H100:80GB')}
        {field('cpu', trans.__('CPU'), '4..')}
        {field('memory', trans.__('Memory'), '16GB..')}
        {field('maxPrice', trans.__('At most $/h'), '2.50')}
        <div className="jp-dstack-Form-buttons">
          <button
            type="submit"
            className="jp-dstack-Button jp-mod-styled jp-mod-accept"
          >
            {trans.__('Show offers')}
          </button>
          <InsertButton
            parts={parts}
            text={taskCell(wanted)}
            label={trans.__('Insert a cell that asks for this')}
            word={trans.__('Insert a cell')}
          />
        </div>
      </form>
      <div ref={summary} role="status" className="jp-dstack-Answer-summary">
        {summaryOf(answer, parts)}
      </div>
      {answer.kind === 'offers' && (
        <OffersAnswer
          offers={answer.offers}
          wanted={answer.wanted}
          parts={parts}
        />
      )}
    </>
  );
}

function OffersAnswer(props: {
  offers: IOffers;
  wanted: IWanted;
  parts: IParts;
}) {
  const { offers, wanted, parts } = props;
  const { trans } = parts;
  return (
    <>
      {offers.offers.length > 0 && (
        <table className="jp-dstack-Table" aria-label={trans.__('Offers')}>
          <thead>
            <tr>
              <th scope="col">{trans.__('Offer')}</th>
              <th scope="col">{trans.__('Price')}</th>
              <th scope="col">
                <span className="jp-dstack-Unseen">{trans.__('Insert')}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {offers.offers.map(offer => (
              <OfferLine
                key={offer.id}
                offer={offer}
                wanted={wanted}
                parts={parts}
              />
            ))}
          </tbody>
        </table>
      )}
      {offers.remarks.map(remark => (
        <p className="jp-dstack-Item-fact" key={remark}>
          {remark}
        </p>
      ))}
      {offers.total_refused > 0 && (
        <details open={offers.offers.length === 0}>
          <summary>
            {trans.__('%1 refused — why', countText(offers.total_refused))}
          </summary>
          <ul className="jp-dstack-Reasons">
            {offers.refused.map(offer => (
              <li key={offer.id}>
                <b>{placeText(offer)}</b>: {offer.reasons.join('; ')}
              </li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

function OfferLine(props: {
  offer: IOfferRow;
  wanted: IWanted;
  parts: IParts;
}) {
  const { offer, wanted, parts } = props;
  const { trans } = parts;
  const place = placeText(offer);
  const facts = [offer.resources, offer.spot ? trans.__('spot') : ''];
  return (
    <tr>
      <td>
        <div className="jp-dstack-Offer-place">{place}</div>
        <div className="jp-dstack-Item-fact">
          {facts.filter(Boolean).join(' · ')}
        </div>
        {offer.notes.map(note => (
          <div className="jp-dstack-Item-fact" key={note}>
            {note}
          </div>
        ))}
      </td>
      <td>{hourlyText(offer.price)}</td>
      <td>
        <InsertButton
          parts={parts}
          text={taskCell(wanted, offer)}
          label={trans.__('Insert a cell for %1', place)}
          icon={addBelowIcon}
        />
      </td>
    </tr>
  );
}

async function answerTo(wanted: IWanted, parts: IParts): Promise<Answer> {
  const body = {
    gpu: wanted.gpu.trim() || undefined,
    cpu: wanted.cpu.trim() || undefined,
    memory: wanted.memory.trim() || undefined,
    max_price: wanted.maxPrice.trim() || undefined
  };
  try {
    const offers = await post<IOffers>(parts.serverSettings, 'offers', body);
    return { kind: 'offers', wanted, offers };
  } catch (error) {
    return { kind: 'failed', sentence: sentenceOf(error, parts.trans) };
  }
}

function summaryOf(answer: Answer, { trans }: IParts): string {
  switch (answer.kind) {
    case 'none':
      return '';
    case 'waiting':
      return trans.__('Asking…');
    case 'failed':
      return answer.sentence;
  }
  const { offers, total_offers: total } = answer.offers;
  if (!total) {
    return trans.__('No offer fits.');
  }
  return total > offers.length
    ? trans.__(
        'The best %1 of %2 offers that fit.',
        countText(offers.length),
        countText(total)
      )
    : trans._n('%1 offer that fits.', '%1 offers that fit.', total);
}
