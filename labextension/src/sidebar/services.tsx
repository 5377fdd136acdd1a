/** The section of services and of the models behind them. */
import { Clipboard, Notification } from '@jupyterlab/apputils';
import { URLExt } from '@jupyterlab/coreutils';
import { copyIcon } from '@jupyterlab/ui-components';

import { FIRST_SERVICE } from '../cells';
import { signOf, statusWord, trafficText } from '../format';
import { Fragment, h } from '../jsx';
import { IModelRow, IReplicaRow, IServiceRow } from '../records';
import { CommandIDs } from '../tokens';
import { Lesson } from './lesson';
import { IParts } from './parts';
import { ActionButton, Section } from './section';

/** Services with their addresses and traffic, models with a chat. */
export class ServicesSection extends Section {
  constructor(parts: IParts) {
    const label = parts.trans.__('Services and models');
    super(parts, { name: 'services', label });
  }

  protected told(): unknown[] {
    const { model } = this.parts;
    return [model.services, model.models, model.isReady];
  }

  protected render() {
    const { model, trans, commands } = this.parts;
    const services = model.services.filter(
      service => !model.run(service.name)?.finished
    );
    if (!services.length) {
      return model.isReady ? (
        <Lesson
          text={trans.__(
            'No services. One stays, answers requests at an address of its own, and grows with them:'
          )}
          cell={FIRST_SERVICE}
          trans={trans}
          commands={commands}
        />
      ) : (
        <></>
      );
    }
    return (
      <>
        {model.models.length > 0 && (
          <ul className="jp-dstack-List" aria-label={trans.__('Models')}>
            {model.models.map(row => (
              <ModelItem key={row.name} row={row} parts={this.parts} />
            ))}
          </ul>
        )}
        <ul className="jp-dstack-List" aria-label={trans.__('Services')}>
          {services.map(row => (
            <ServiceItem key={row.name} row={row} parts={this.parts} />
          ))}
        </ul>
      </>
    );
  }
}

function ModelItem({ row, parts }: { row: IModelRow; parts: IParts }) {
  const { trans, commands } = parts;
  const canTry = commands.hasCommand(CommandIDs.tryModel);
  const attempt = () =>
    void commands.execute(CommandIDs.tryModel, { model: row.name });
  return (
    <li className="jp-dstack-Item jp-dstack-ModelRow">
      <div className="jp-dstack-Item-head">
        <span className="jp-dstack-Item-name" title={row.name}>
          {row.name}
        </span>
        {canTry && (
          <ActionButton
            label={trans.__('Try %1', row.name)}
            text={trans.__('Try')}
            onClick={attempt}
          />
        )}
      </div>
      <div className="jp-dstack-Item-fact">
        {trans._n(
          'model · %1 replica ready',
          'model · %1 replicas ready',
          row.ready_replicas
        )}
      </div>
    </li>
  );
}

function ServiceItem({ row, parts }: { row: IServiceRow; parts: IParts }) {
  const { trans } = parts;
  const { baseUrl } = parts.serverSettings;
  const own = URLExt.join(baseUrl, row.proxy);
  const address = row.url ?? new URL(own, location.href).href;
  const copy = () => {
    Clipboard.copyToSystem(address);
    Notification.info(trans.__('Copied.'), { autoClose: 2000 });
  };
  return (
    <li
      className="jp-dstack-Item jp-dstack-ServiceRow"
      data-status={row.status}
      aria-label={row.name}
    >
      <div className="jp-dstack-Item-head">
        <span className="jp-dstack-Sign" aria-hidden="true">
          {signOf(row)}
        </span>
        <span className="jp-dstack-Item-name" title={row.name}>
          {row.name}
        </span>
        <span className="jp-dstack-Item-word">{statusWord(row, trans)}</span>
      </div>
      <div className="jp-dstack-Item-address">
        <a
          href={own}
          target="_blank"
          rel="noopener noreferrer"
          title={trans.__('Open %1 in a new tab', row.name)}
        >
          {address.replace(/^https?:\/\//, '')}
        </a>
        <ActionButton
          label={trans.__('Copy the address of %1', row.name)}
          icon={copyIcon}
          onClick={copy}
        />
      </div>
      <div className="jp-dstack-Item-fact">{trafficText(row, trans)}</div>
      {row.model && (
        <div className="jp-dstack-Item-fact">
          {trans.__('model %1', row.model)}
        </div>
      )}
      {row.replicas.filter(isTold).map(replica => (
        <div className="jp-dstack-Item-trouble" key={replica.job}>
          {`${replica.job}: ${[replica.state, replica.trouble].filter(Boolean).join(' · ')}`}
        </div>
      ))}
    </li>
  );
}

/** Only what is not as it should be has a line of its own. */
function isTold(replica: IReplicaRow): boolean {
  return replica.trouble !== null || replica.state !== 'ready';
}
